"""What any process that serves clients needs, put together from the options."""

import itertools
import os

from perdition.auth import LocalAuthentication
from perdition.clients import Clients
from perdition.helper_line import Asker
from perdition.log import Log
from perdition.login import Site
from perdition.net.address import Resolver
from perdition.net.loop import Loop
from perdition.options import Options
from perdition.popmap import PopMap
from perdition.popmap.directory import Directory
from perdition.popmap.kinds import open_map
from perdition.process.encryption import Encryption
from perdition.tally import Tally
from perdition.upstream import Upstream


def furnish(  # noqa: PLR0913 - all that a Site is made of
    loop: Loop,
    options: Options,
    log: Log,
    *,
    popmap: PopMap,
    tls: Encryption,
    clients: Clients,
    tally: Tally,
    helper: Asker | None,
) -> Site:
    """Return what the sessions on a loop share; raises StartupError."""
    local = None
    if options.authenticate_in:
        assert helper
        local = LocalAuthentication(helper, options.authenticate_timeout)
    resolver = Resolver(loop, numeric=options.no_lookup)
    return Site(
        options=options,
        log=log,
        tally=tally,
        loop=loop,
        popmap=Directory(loop, popmap, options, log),
        clients=clients,
        local=local,
        tls=tls.listening,
        resolver=resolver,
        upstream=Upstream(loop, resolver, options, log, tls.outgoing, tally),
        turns=itertools.count(int.from_bytes(os.urandom(2), "big")),
        splices=set(),
    )


def refurnish(site: Site, options: Options, tls: Encryption) -> Site:
    """Return what sessions share from now on, under other options; raises StartupError."""
    popmap = open_map(options)
    site.popmap.close()
    local = site.local and LocalAuthentication(site.local.helper, options.authenticate_timeout)
    return site._replace(
        options=options,
        local=local,
        popmap=Directory(site.loop, popmap, options, site.log),
        upstream=Upstream(site.loop, site.resolver, options, site.log, tls.outgoing, site.tally),
    )
