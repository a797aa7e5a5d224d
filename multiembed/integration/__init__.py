"""Base class of the framework classes, and hybrid search over one client."""
