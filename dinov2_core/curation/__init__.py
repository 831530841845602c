"""What decides which images stay: screening, copy detection, clustering, retrieval and selection, as plain functions
on arrays. Stages, tables and storage do not belong here."""
