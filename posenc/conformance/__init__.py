"""The check that implementations agree with the specification: vectors, the judge, the columns, the report.

The judge needs the standard library alone; a framework is imported by the driver of its column, when it starts.
"""
