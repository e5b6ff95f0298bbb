"""The base classes of popmaps in files, which may be replaced or rewritten at any time."""

import math
import os
import time
import zlib
from abc import abstractmethod
from collections.abc import Hashable
from contextlib import suppress
from os import fsdecode, fsencode
from typing import ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

from perdition.failure import MapUnavailable, StartupError
from perdition.files import absolute_path
from perdition.popmap import Destination, PopMap, Query, one_line

SETTLE_SECONDS = 1.0
"""How long a file must be unchanged before its new content is used, in seconds."""
COPY_LIMIT = 32 * 1024 * 1024
"""Size in bytes above which a database is used without a copy."""
CHUNK = 1024 * 1024

C = TypeVar("C")


class Signature(NamedTuple):
    """What changes when a file is replaced or written.

    On tmpfs a write through a memory map, as by gdbm, changes no attribute of a file. There the
    ``checksum`` of the content shows the change.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    checksum: int = 0

    @classmethod
    def of(cls, file: str | int) -> Self:
        """Return the signature of a path or descriptor; raises OSError."""
        status = os.stat(file)
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    def age(self) -> float:
        """Return the seconds since the last change, by the system's clock."""
        return time.time() - max(self.modified, self.changed) / 1e9


class FileMap(PopMap, Generic[C]):
    """A map in a file, which is loaded again when the file changes.

    A changed file is used after it has been unchanged for SETTLE_SECONDS. Until then, and as
    long as the new content is empty or has an error, the previous content is used. The first
    content is used at once. A file that is missing or unreadable makes the map unavailable.
    """

    blocks = False

    writes_through_memory_map: ClassVar[bool] = False
    """Whether programs that write such files may write through a memory map."""

    def __init__(self, path: str, delimiter: str) -> None:
        self.path = absolute_path(path)
        self.needs_checksum = False
        """Whether the file may change without any change of its attributes."""
        self.checksum = 0
        self.checksum_at = -math.inf
        """When the checksum was computed, by the monotonic clock."""
        self.delimiter = delimiter
        self.content: C | None = None
        self.loaded: Signature | None = None
        self.changed: Signature | None = None
        """The signature of a changed file that is not used yet."""
        self.changed_at = 0.0
        """When the change was noticed, by the monotonic clock."""
        self.refused: Signature | None = None
        """The signature of a changed file that cannot be used."""
        self.retry_at = 0.0
        """When a refused file is tried again, by the monotonic clock."""

    @abstractmethod
    def load(self) -> C:
        """Return the file's content; raises OSError, or ValueError for useless content."""

    @abstractmethod
    def is_empty(self, content: C) -> bool:
        """Whether there are no entries; raises ValueError for damaged content."""

    def mistake(self, content: C) -> str:
        """Return the error that makes part of the content unusable, or ""."""
        del content
        return ""

    def discard(self, content: C) -> None:
        """Close what belongs to content that is no longer used."""

    def current(self) -> C:
        """Return the content to use; raises MapUnavailable."""
        try:
            now = self.signature()
            if self.content is None:
                content = self.load_stable()
                self.replace(content, self.signature())
            elif now != self.loaded and self.is_settled(now) and self.may_load(now):
                self.try_to_replace(now)
        except (OSError, ValueError) as error:
            raise MapUnavailable(f"popmap {self.path}: {one_line(error)}") from error
        assert self.content is not None
        return self.content

    def signature(self, *, latest: bool = False) -> Signature:
        """Return the file's signature; raises OSError.

        The checksum may be up to SETTLE_SECONDS old, unless ``latest`` is set.
        """
        signature = Signature.of(self.path)
        if not self.needs_checksum:
            return signature
        now = time.monotonic()
        if latest or now - self.checksum_at >= SETTLE_SECONDS:
            self.checksum, self.checksum_at = checksum(self.path), now
        return signature._replace(checksum=self.checksum)

    def is_settled(self, now: Signature) -> bool:
        """Whether a changed file has been unchanged long enough.

        The file's own times are used, so that the first lookup after a quiet hour uses the new
        content. If they are in the future, the monotonic clock is used.
        """
        if now != self.changed:
            self.changed, self.changed_at = now, time.monotonic()
        noticed = time.monotonic() - self.changed_at
        if self.needs_checksum:  # the times may not show the last write
            return noticed >= SETTLE_SECONDS
        return now.age() >= SETTLE_SECONDS or noticed >= SETTLE_SECONDS

    def may_load(self, now: Signature) -> bool:
        """Whether to load a changed file: not if that has just failed."""
        return now != self.refused or time.monotonic() >= self.retry_at

    def try_to_replace(self, now: Signature) -> None:
        """Load changed content, or keep the previous content and log why, once."""
        try:
            content = self.load_stable()
            try:
                self.refuse_useless(content)
            except ValueError:
                self.discard(content)
                raise
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            if now != self.refused:
                self.log_warning(
                    f"popmap {self.path}: {one_line(error)}; keeping the previous content"
                )
            self.refused = now
            # An error in the file stays until it changes, but a lack of descriptors may end.
            wait = SETTLE_SECONDS if isinstance(error, OSError) else math.inf
            self.retry_at = time.monotonic() + wait
        else:
            self.replace(content, now)

    def refuse_useless(self, content: C) -> None:
        """Raise ValueError for content that must not replace other content."""
        if mistake := self.mistake(content):
            raise ValueError(mistake)
        if self.is_empty(content):
            raise ValueError("no entries")

    def load_stable(self) -> C:
        """Return the file's content; raises BlockingIOError if it changes meanwhile."""
        self.needs_checksum = self.writes_through_memory_map and may_be_in_memory(self.path)
        before = self.signature(latest=True)
        content = self.load()
        if self.signature(latest=True) != before:
            self.discard(content)
            raise BlockingIOError("changed while it was read")
        return content

    def replace(self, content: C, signature: Signature) -> None:
        """Use new content from now on."""
        self.close()
        self.content, self.loaded = content, signature

    def reads_same_file(self, other: PopMap) -> bool:
        return type(other) is type(self) and (other.path, other.delimiter) == (
            self.path,
            self.delimiter,
        )

    def probe(self) -> None:
        try:
            if mistake := self.mistake(self.current()):
                raise MapUnavailable(f"popmap {self.path}: {mistake}")
        except MapUnavailable as failure:
            raise StartupError(f"{failure.detail}; see map_library_opt") from failure
        finally:
            self.close()

    def cache_key(self, query: Query) -> Hashable:
        return query.key

    def reopen(self) -> None:
        self.close()

    def close(self) -> None:
        if self.content is not None:
            self.discard(self.content)
        self.content = self.loaded = self.refused = self.changed = None


class Database(Protocol):
    """An open file of keys and values."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def close(self) -> object: ...


class OpenDatabase(NamedTuple):
    """A database, whether it is empty, and the inode that it is read from (0: a copy)."""

    database: Database
    empty: bool
    inode: int


class DatabaseMap(FileMap[OpenDatabase]):
    """A map in a database file of keys and values, without trailing NULs.

    It is read from a copy in memory, because another program may write to the file or truncate it
    at any time. That could damage what is read, or kill a process that has mapped the file.
    """

    errors: ClassVar[tuple[type[Exception], ...]]
    """What the database library raises for a damaged file."""

    @abstractmethod
    def open_database(self, path: str) -> Database:
        """Open a file for reading; raises OSError and ``errors``."""

    @abstractmethod
    def has_entries(self, database: Database) -> bool:
        """Whether there are any entries; raises ``errors``."""

    def probe(self) -> None:
        """Only check that the file is readable: opening a damaged one may crash the process."""
        try:
            open(self.path, "rb").close()
        except OSError as error:
            raise StartupError(
                f"popmap {self.path}: {one_line(error)}; see map_library_opt"
            ) from error

    def load(self) -> OpenDatabase:
        copy = copy_in_memory(self.path)
        if copy is None:
            return self.open_and_check(self.path, os.stat(self.path).st_ino)
        try:
            return self.open_and_check(memory_path(copy), 0)
        finally:
            os.close(copy)

    def open_and_check(self, path: str, inode: int) -> OpenDatabase:
        """Open a database; raises OSError, and ValueError if it is damaged."""
        database = None
        try:
            database = self.open_database(path)
            return OpenDatabase(database, not self.has_entries(database), inode)
        except self.errors as error:
            if database:
                database.close()
            raise ValueError(f"wrong format or damaged ({one_line(error)})") from error

    def is_empty(self, content: OpenDatabase) -> bool:
        return content.empty

    def discard(self, content: OpenDatabase) -> None:
        content.database.close()

    def current(self) -> OpenDatabase:
        content = super().current()
        if content.inode and self.changed and self.changed.inode == content.inode:
            raise MapUnavailable(f"popmap {self.path}: being rewritten, and too large for a copy")
        return content

    def lookup(self, query: Query) -> Destination | None:
        database = self.current().database
        try:
            value = database.get(fsencode(query.key))
        except self.errors as error:
            self.close()
            raise MapUnavailable(f"popmap {self.path}: damaged ({one_line(error)})") from error
        return Destination.parse(fsdecode(value), self.delimiter) if value is not None else None


def checksum(path: str) -> int:
    """Return a checksum of a file's content; raises OSError."""
    crc = 0
    with open(path, "rb") as file:
        while data := file.read(CHUNK):
            crc = zlib.crc32(data, crc)
    return crc


def may_be_in_memory(path: str) -> bool:
    """Return whether a file is on tmpfs, or on an overlay, which may be on one: see proc(5).

    The device number of the directory is used, because on an overlay that of a file may differ.
    """
    device = os.stat(os.path.dirname(os.path.realpath(path))).st_dev
    number = f"{os.major(device)}:{os.minor(device)}".encode()
    with open("/proc/self/mountinfo", "rb") as mounts:
        return any(
            line.split()[2] == number
            and line.partition(b" - ")[2].startswith((b"tmpfs ", b"overlay "))
            for line in mounts
        )


def copy_in_memory(path: str) -> int | None:
    """Return the descriptor of a copy of a file; None if it is too large, or cannot be opened.

    A copy cannot be opened without /proc, and maybe not under AppArmor. Raises OSError for errors
    of the file itself.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > COPY_LIMIT:
            return None
        copy = os.memfd_create("popmap")
        try:
            while os.sendfile(copy, file.fileno(), None, COPY_LIMIT):
                pass
            with suppress(OSError):
                open(memory_path(copy), "rb").close()
                return copy
        except BaseException:
            os.close(copy)
            raise
        os.close(copy)
    return None


def memory_path(descriptor: int) -> str:
    """Return a path that opens what a descriptor refers to."""
    return f"/proc/self/fd/{descriptor}"
