"""Ray: joining or embedding a cluster, who gets what, training workers, their events and failures."""
