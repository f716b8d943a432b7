"""What is in containers' file systems: in and out of them, and on into images and other containers."""
