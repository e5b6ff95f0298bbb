"""A login proxy for POP3, IMAP4 and ManageSieve.

It finds each user's real server in a popmap, logs in there, and from then on moves bytes.
"""

__version__ = "3.0.0"
