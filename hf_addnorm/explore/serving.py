"""Starting the page: a server on this machine alone, which sends nothing elsewhere."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path


ADDRESS = "127.0.0.1"
PAGE = Path(__file__).with_name("page.py")


def command(port: int, open_browser: bool) -> list[str]:
    """The command that serves the page.

    Args:
        port (`int`): on this machine.
        open_browser (`bool`): whether a browser shows it.
    Raises:
        ImportError: without Streamlit.
        OSError: if the port is in use.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise ImportError("hf-addnorm explore needs Streamlit: pip install 'hf_addnorm[explore]'.")
    with socket.socket() as tried:
        if tried.connect_ex((ADDRESS, port)) == 0:
            raise OSError(f"port {port} is in use; --port takes another one.")
    options = {
        "server.address": ADDRESS,
        "server.port": port,
        "server.headless": not open_browser,
        "server.fileWatcherType": "none",
        # figures of its use are sent to its makers by default
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
    }
    said = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(PAGE), *said]


def serve(port: int, open_browser: bool) -> int:
    """Serve the page until it is interrupted; returns the exit code."""
    # what it draws is computed here: nothing asks the Hub
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    try:
        return subprocess.run(command(port, open_browser), env=env, check=False).returncode
    except KeyboardInterrupt:
        return 0
