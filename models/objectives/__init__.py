"""What training minimises: losses per position, reduced in one place."""
