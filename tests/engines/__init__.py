"""Jobs on real queue servers, which these tests start themselves."""
