"""Servers, clocks and tables that several tests share."""
