"""Worker processes: spawn, pin, watch, restart."""
