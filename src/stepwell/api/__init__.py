"""The HTTP surfaces: decode a request, ask the node, encode the answer."""
