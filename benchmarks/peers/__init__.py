"""What hullforge is measured against, each written out plainly, so that both sides run in one process."""
