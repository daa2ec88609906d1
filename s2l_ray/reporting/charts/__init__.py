"""Turns facts into Altair charts, one function per picture. A notebook can display the returned charts directly."""
