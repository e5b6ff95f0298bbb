"""TLS with popmap servers, using the standard library."""

import ssl


def client_context(
    authorities: str | None = None, folder: str | None = None, data: str | bytes | None = None
) -> ssl.SSLContext:
    """Return a context that trusts authorities from a file, a folder or memory; else the system's.

    Many sites have an authority made by plain ``openssl req -x509``, which has no key usage. By
    default Python 3.13 no longer accepts those (VERIFY_X509_STRICT).
    """
    context = ssl.create_default_context(cafile=authorities, capath=folder, cadata=data)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
