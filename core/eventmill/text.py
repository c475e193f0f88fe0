"""Text from outside, made safe to print and to log."""


def escape(text: str) -> str:
    """Return the text with every character that could control a terminal, or break a line, as an escape sequence."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )
