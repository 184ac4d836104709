"""OpenAI's API as this server answers it: requests become inputs of apps, and outputs of apps become answers."""
