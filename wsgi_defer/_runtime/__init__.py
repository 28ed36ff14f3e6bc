"""What is around the calls in their process: server, orders to stop, forks, parent."""
