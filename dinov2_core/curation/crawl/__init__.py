"""Crawling: pages and archives → image references → fetched bytes, each step bounded and refusing with a reason."""
