"""The lookup process for ODBC.

python3 -m perdition.popmap.backends.odbc_process DESCRIPTOR
"""

import sys
from os import fsdecode, fsencode

from perdition.endpoint import ConnectionEnds
from perdition.failure import MapUnavailable
from perdition.options.table import Options
from perdition.popmap import Query
from perdition.popmap.backends.odbc import ODBCTable
from perdition.popmap.lookup_process import serve
from perdition.popmap.process_map import FOUND, NO_SUCH_KEY, UNREACHABLE
from perdition.popmap.sql import Table


class ODBC:
    """A table of an ODBC data source and its connection."""

    def start(self, option: bytes) -> tuple[int, bytes]:
        """Read the delimiter and the parts of the table, including its password."""
        delimiter, *parts = map(fsdecode, option.split(b"\0"))
        table = Table(*parts)
        options = Options(domain_delimiter=delimiter)
        self.popmap = ODBCTable(table, [table.database], options)
        return FOUND, b""

    def lookup(self, key: bytes, ends: ConnectionEnds) -> tuple[int, bytes]:
        try:
            destination = self.popmap.lookup(Query(fsdecode(key), ends))
        except MapUnavailable as failure:
            return UNREACHABLE, fsencode(failure.detail.removeprefix("popmap: "))
        if not destination:
            return NO_SUCH_KEY, b""
        return FOUND, fsencode("\0".join([destination.user, *destination.server]))

    def close(self) -> None:
        self.popmap.close()


if __name__ == "__main__":
    serve(ODBC(), int(sys.argv[1]))
