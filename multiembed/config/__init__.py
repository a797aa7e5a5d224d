"""Options, credentials and endpoint of a client, and the request configuration that they lead to."""
