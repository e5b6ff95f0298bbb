"""The privileged helper: re-reads files that only root may read, and asks PAM."""
