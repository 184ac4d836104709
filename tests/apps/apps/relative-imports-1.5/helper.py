from .deeper import SPACE


def join(words: list[str]) -> str:
    return SPACE.join(words)
