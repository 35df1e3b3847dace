"""Redaction of secrets: Hub tokens and logins are removed from text before it is written or shown."""

import os
import re

from huggingface_hub import get_token


REMOVED = "[removed]"

# a token of the Hub; the name and password in an address, as in a git remote
_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")
_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")


def holds_token(text: str) -> bool:
    """Whether there is a token of the Hub, or a login, in a text."""
    return redact(text) != text


def redact(text: str) -> str:
    """The text without tokens of the Hub, without logins in addresses, and without this user's own token."""
    own = {os.environ.get(name, "").strip() for name in _VARIABLES} | {get_token() or ""}
    # the longest first: one may be the beginning of another
    for secret in sorted(own, key=len, reverse=True):
        # anything shorter is no token, and may be a word of the text
        if len(secret) >= 8:
            text = text.replace(secret, REMOVED)
    return _LOGIN.sub(REMOVED, _TOKEN.sub(REMOVED, text))
