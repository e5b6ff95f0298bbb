"""Tests of the container image; they take minutes, and only make testcontainer runs them."""
