"""The surface for OpenAI's clients: apps that are language models or make embeddings."""
