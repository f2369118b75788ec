"""3H and interaction: outcomes per item, figures as pure functions of them, and the report."""
