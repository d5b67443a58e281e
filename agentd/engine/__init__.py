"""From kernel events to records, approvals and metrics; core.py has the order."""
