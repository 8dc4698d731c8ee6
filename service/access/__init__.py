"""Access: API keys, rate limits, and the audit log. Start with `admission.py`. It does not know what a picture is."""
