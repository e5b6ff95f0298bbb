"""What all sessions of a process share, created from the options and replaced by a reload."""

import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

from perdition.client_limits import ClientLimits
from perdition.helper.client import HelperClient
from perdition.local_authentication import LocalAuthentication
from perdition.log import Log
from perdition.net.loop import Loop
from perdition.net.resolver import Resolver
from perdition.net.splice import Splice
from perdition.net.tls_contexts import TLSContexts
from perdition.options.table import Options
from perdition.popmap.kinds import open_after_reload
from perdition.popmap.service import PopMapService
from perdition.scoreboard import WorkerCounters
from perdition.upstream import Upstream


class Site(NamedTuple):
    """The options, and all that is created from them.

    A session keeps the Site that it started with; after a reload new sessions get another one.
    """

    options: Options
    log: Log
    counters: WorkerCounters
    loop: Loop
    popmap: PopMapService
    client_limits: ClientLimits
    tls: TLSContexts
    helper: HelperClient | None
    local_authentication: LocalAuthentication | None
    resolver: Resolver
    upstream: Upstream
    server_turns: Iterator[int]
    """Numbers that choose the first of several ``outgoing_server``, round robin."""
    splices: set[Splice]
    """The sessions whose clients have logged in."""
    inetd_pid: int = 0
    """The process id of the super-server that started this process; 0: none."""

    @classmethod
    def open(  # noqa: PLR0913 - all that a Site is made of
        cls,
        loop: Loop,
        options: Options,
        log: Log,
        *,
        popmap: PopMapService,
        tls: TLSContexts,
        client_limits: ClientLimits,
        counters: WorkerCounters,
        helper: HelperClient | None = None,
        inetd_pid: int = 0,
    ) -> "Site":
        """Return the Site of a process that serves clients."""
        resolver = Resolver(loop, numeric=options.no_lookup)
        return cls(
            options=options,
            log=log,
            counters=counters,
            loop=loop,
            popmap=popmap,
            client_limits=client_limits,
            tls=tls,
            helper=helper,
            local_authentication=LocalAuthentication.wanted(options, helper),
            resolver=resolver,
            upstream=Upstream(loop, resolver, options, log, tls.outgoing, counters),
            server_turns=itertools.count(int.from_bytes(os.urandom(2), "big")),
            splices=set(),
            inetd_pid=inetd_pid,
        )

    def reload(self, options: Options) -> "Site":
        """Return the Site under other options, with the popmap opened again.

        Raises StartupError; the old one then stays usable.
        """
        popmap = open_after_reload(options, self.popmap.popmap)
        if popmap is not self.popmap.popmap:
            self.popmap.close()
        return self._replace(
            options=options,
            popmap=PopMapService(self.loop, popmap, options, self.log),
            local_authentication=LocalAuthentication.wanted(options, self.helper),
            upstream=Upstream(
                self.loop, self.resolver, options, self.log, self.tls.outgoing, self.counters
            ),
        )

    def close_sessions(self) -> None:
        """End all sessions; each logs its closing line."""
        for task in list(self.loop.tasks):
            task.cancel()
        for splice in list(self.splices):
            splice.shut_down()
