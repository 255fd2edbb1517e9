"""Which of CARLA's tags labels hold: the same number is a building in one version, and the road in another."""

from collections import Counter

_MANY, _FEW = 0.05, 0.02  # shares of all pixels that a street's road has at least, and its traffic lights at most
_OF_OLD, _OF_NEW = 7, 1  # the road, before 0.9.14 and since
_NEWEST_OF_OLD = 22
OLD, NEW = ("carla_0_9_5", "carla_0_9_6"), ("carla_0_9_14",)


def versions(values: Counter) -> tuple[str, ...]:
    """The data sets that labels can be of by their histogram, {value: pixels}; both ages where it does not tell."""
    total = sum(values.values()) or 1
    share = {value: pixels / total for value, pixels in values.items()}
    if max(values, default=0) > _NEWEST_OF_OLD or share.get(_OF_OLD, 0) < _FEW and share.get(_OF_NEW, 0) >= _MANY:
        return NEW
    if share.get(_OF_OLD, 0) >= _MANY:
        return OLD if max(values) <= 12 else OLD[1:]
    return OLD + NEW


def problem(name: str, values: Counter) -> str:
    """What is wrong with taking labels of these values for those of that data set; '' where nothing is."""
    found = versions(values)
    if not name.startswith("carla") or name in found:
        return ""
    return (f"the labels do not look like {name}, but like {' or '.join(found)}: roads and buildings have other "
            "numbers in other versions of CARLA. Look at contact_sheet.png, and name the data set as what they are; if "
            "that is meant, prepare by a configuration, --config, and --config.data.allow=carla_version")  # fmt: skip
