"""One file per trained system: its configuration, presets, and what it saves and reports."""
