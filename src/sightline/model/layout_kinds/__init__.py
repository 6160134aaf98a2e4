"""Published ways to arrange the crops of a picture, one module per idea. All choose entries and write tokens; none touches a tensor."""
