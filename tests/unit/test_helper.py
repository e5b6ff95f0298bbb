"""The helper, without its processes: it answers on."""

from pathlib import Path

from perdition.helper_line import FIRST_ID, HEAD, MESSAGE_SIZE, SIZE, Line, Status, Wanted
from perdition.process.helper import Helper


def test_what_is_no_request(tmp_path: Path) -> None:
    """Whatever a worker has sent, the next one in its place is answered."""
    file = tmp_path / "certificate"
    file.write_bytes(b"octets")
    line = Line([str(file)])
    helper = Helper("test", [line], -1, 1.0)
    for said in (b"", b"?"):
        line.ours.send(said)
        helper.respond(line)

    line.ours.send(HEAD.pack(FIRST_ID, Wanted.FILE) + SIZE.pack(0))
    helper.respond(line)

    assert line.ours.recv(MESSAGE_SIZE) == HEAD.pack(FIRST_ID, Status.READY) + b"octets"
    line.ours.close()
    line.helpers.close()
