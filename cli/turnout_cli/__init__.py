"""What the commands turnout-server, turnout-export and turnout-loadtest have in common."""
