"""The built modules: private, and subject to change without notice."""
