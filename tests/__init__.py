"""Tests of the course; a package, so that its modules can import each other."""
