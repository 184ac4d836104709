"""The HTTP surface that official Inngest SDKs talk to."""
