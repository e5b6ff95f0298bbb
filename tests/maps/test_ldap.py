"""What only directories have: addresses with everything in them, TLS, keys in names."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdition.endpoint import Endpoint
from perdition.failure import MapUnavailable, StartupError
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query
from perdition.popmap.kinds import open_map
from tests.maps.test_servers import ANSWERS, ENDS, INJECTIONS, LINES
from tests.support.folders import ROOT, public_folder
from tests.support.map_servers import OpenLDAP

ldap = pytest.importorskip("perdition.popmap.backends.ldap")


@pytest.fixture(scope="module")
def server() -> Iterator[OpenLDAP]:
    """A directory with the users."""
    if reason := OpenLDAP.missing():
        pytest.skip(reason)
    with public_folder() as folder, OpenLDAP(folder) as running:
        running.load(LINES)
        yield running


def opened(option: str) -> PopMap:
    return open_map(Options(map_library="ldap", map_library_opt=option))


def answer(option: str, key: str = "joe") -> Destination | None:
    popmap = opened(option)
    try:
        return popmap.lookup(Query(key, ENDS))
    finally:
        popmap.close()


def test_directory_can_be_reached_by_ldaps(server: OpenLDAP) -> None:
    where = f"ldaps://127.0.0.1:{server.tls_port}"
    authorities = f"x-cacertfile={server.authority}"
    assert answer(server.url(where, authorities)) == ANSWERS["joe"]
    with pytest.raises(MapUnavailable):
        answer(server.url(where))  # the authority is unknown
    with pytest.raises(MapUnavailable):  # the certificate is for another name
        answer(server.url(f"ldaps://localhost:{server.tls_port}", authorities))


def test_directory_can_be_reached_with_start_tls(server: OpenLDAP) -> None:
    where = f"ldap://127.0.0.1:{server.port}"
    authorities = f"x-cacertfile={server.authority}"
    assert answer(server.url(where, "!StartTLS", authorities)) == ANSWERS["joe"]
    with pytest.raises(MapUnavailable):
        answer(server.url(where, "x-starttls"))


def test_wrong_password_is_unavailable_and_not_logged(server: OpenLDAP) -> None:
    option = server.option().replace(f"@{server.password_file}", "wr0ng")
    with pytest.raises(MapUnavailable, match="Invalid credentials") as failure:
        answer(option)
    assert "wr0ng" not in failure.value.detail


def test_version_2_is_supported(server: OpenLDAP) -> None:
    assert answer(f"2:{server.option()}") == ANSWERS["joe"]


def test_base_may_contain_the_key(server: OpenLDAP) -> None:
    """The key is part of the entry's name: a missing entry is an unknown user, not an error."""
    option = server.option()
    option = option.replace(f"/{server.base}", f"/uid=%s,{server.base}").replace("?one?", "?base?")
    option = option.replace("(uid=%s)", "")
    assert answer(option) == ANSWERS["joe"]
    popmap = opened(option)
    for key in [*INJECTIONS, "", "nobody", "joe,ou=mailbox,dc=nodomain", "joe+uid=ann"]:
        found = popmap.lookup(Query(key, ENDS))
        assert found == (ANSWERS["joe"] if key in server.loose else None), key
    popmap.close()


def test_missing_base_is_unavailable(server: OpenLDAP) -> None:
    with pytest.raises(MapUnavailable, match="No such object"):
        answer(server.option().replace("ou=mailbox", "ou=elsewhere"))


def test_key_can_be_padded(server: OpenLDAP) -> None:
    server.load("                 joe:north\nann:south\n")
    option = server.option().replace("(uid=%s)", "(uid=%20s)")
    assert answer(option) == ANSWERS["joe"]
    server.load(LINES)


def test_trailing_attributes_may_be_omitted(server: OpenLDAP) -> None:
    option = server.option().replace("?username,mailhost,port?", "?username,MAILHOST?")
    assert answer(option, "ann") == Destination(Endpoint("south"))
    assert answer(option, "max") == ANSWERS["max"]


def test_both_forms_of_the_schema_are_the_same(tmp_path: Path) -> None:
    """perdition.ldif defines what perdition.schema does."""
    if reason := OpenLDAP.missing():
        pytest.skip(reason)
    configuration = (
        "dn: cn=config\nobjectClass: olcGlobal\ncn: config\n\n"
        "dn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n\n"
        "include: file:///etc/ldap/schema/core.ldif\n\n"
        f"include: file://{ROOT}/packaging/etc/ldap/perdition.ldif\n"
    )
    done = subprocess.run(
        ["/usr/sbin/slapadd", "-n0", "-F", tmp_path],
        input=configuration,
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "cn=config/cn=schema/cn={1}perdition.ldif").read_text()
    for name in ("username", "mailhost", "port", "perditionPopmap"):
        assert f"NAME '{name}'" in written.replace("\n ", "")


def test_option_is_parsed() -> None:
    read = ldap.Directory.parse(
        "2:ldap://h1 h2:1389/ou=my%20servers,dc=x?u,h,p?sub?(&(uid=%s)(mail=%20s))"
        "?!bindname=cn=me%2cdc=x,x-bindpw=a%2cb,StartTLS"
    )
    assert read.version == 2
    assert read.servers == ["ldap://h1", "ldap://h2:1389"]
    assert read.base == "ou=my servers,dc=x"
    assert read.attributes == ["u", "h", "p"]
    assert read.scope == 2
    padding = "\\20" * 17
    assert ldap.with_key(read.filter, "joe") == f"(&(uid=joe)(mail={padding}joe))"
    assert (read.bind_name, read.password, read.start_tls) == ("cn=me,dc=x", "a,b", True)


def test_option_has_defaults() -> None:
    read = opened("")
    assert isinstance(read, ldap.LDAPMap)
    assert read.directory == ldap.Directory.parse(
        "3:ldap://localhost/ou=mailbox,dc=nodomain?username,mailhost,port?one?(uid=%s)"
    )
    assert ldap.Directory.parse("ldap:///dc=x").servers == ["ldap://"]


@pytest.mark.parametrize("option", ["localhost", "http://localhost/"])
def test_option_must_be_a_url(option: str) -> None:
    with pytest.raises(StartupError, match="expected an LDAP URL"):
        opened(option)
