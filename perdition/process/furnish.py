"""What any process that serves clients needs, put together from the options."""

import itertools
import random
from dataclasses import replace

from perdition.auth import LocalAuthentication
from perdition.clients import Clients
from perdition.helper_line import Asker
from perdition.log import Log
from perdition.login import Site
from perdition.net.address import Resolver
from perdition.net.loop import Loop
from perdition.options import Options
from perdition.popmap import open_map
from perdition.process.encryption import Encryption
from perdition.tally import Tally
from perdition.upstream import Upstream


def furnish(
    loop: Loop,
    options: Options,
    log: Log,
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
        popmap=open_map(options.map_library, options.map_library_opt, options.domain_delimiter),
        clients=clients,
        local=local,
        tls=tls.listening,
        resolver=resolver,
        upstream=Upstream(loop, resolver, options, log, tls.outgoing, tally),
        turns=itertools.count(random.randrange(1 << 16)),
        splices=set(),
    )


def refurnish(site: Site, options: Options, tls: Encryption) -> Site:
    """Return what sessions share from now on, under other options; raises StartupError."""
    return replace(
        site,
        options=options,
        popmap=open_map(options.map_library, options.map_library_opt, options.domain_delimiter),
        upstream=Upstream(site.loop, site.resolver, options, site.log, tls.outgoing, site.tally),
    )
