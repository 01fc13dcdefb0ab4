import pytest

from probekit._probe.site_name import SiteName

NAMES = ["layer1.0.relu@0", "layer1.0.relu@1", "layer1.0.conv", "layer2.0.conv", "lstm[0]", "lstm[1][hidden]", "(root)"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_survives_parsing(name):
    assert str(SiteName.parse(name)) == name
