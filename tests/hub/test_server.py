"""The Hub of the tests answers the real client as the real Hub does: one client process, without a model."""

from pathlib import Path

import forked_python


CLIENT = Path(__file__).with_name("client_of_server.py")


def test_the_client_and_the_server_understand_each_other(hub, tmp_path):
    env = hub.client_env(tmp_path / "home", hub.store.add_user("ann"))
    result = forked_python.run([CLIENT, hub.store.add_user("bob")], env=env, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    repo = hub.repo("ann/net")
    assert [commit.author for commit in repo.history] == ["ann", "ann", "ann", ""]
    assert [repo.refs[ref].author for ref in repo.pulls] == ["ann", "bob"]
    assert repo.head.files["large.safetensors"].is_large
