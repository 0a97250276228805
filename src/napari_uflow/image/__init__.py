"""Images as the rest of the package sees them: windows, tiles, planes, normal regions, intensity."""
