"""The privileged helper: rereads files that only root can read, and asks PAM."""
