"""What reports look like: the page around them, its style in light and dark, figures and pictures of scans."""
