"""Running FFmpeg and ffprobe: processes, their progress, their logs and what their failures mean."""
