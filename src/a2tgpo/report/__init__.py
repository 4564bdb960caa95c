"""Show what run directories hold, as one offline page and as the numbers of its figures (`a2tgpo report`)."""
