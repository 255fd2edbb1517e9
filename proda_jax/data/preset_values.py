"""What the label values of further public data sets mean, as tables: {class: raw values}.

Values that a table does not name have no meaning: they are counted and told, never mapped. No real files of these data
sets were at hand; the tables rest on code that reads them and on their pages.
"""

Table = dict[str, tuple]

# Vistas 1.2, as most adaptation code reduces it (lane markings and manholes are road, curbs are sidewalk)
MAPILLARY_1_2: Table = {
    "road": (13, 24, 41), "sidewalk": (2, 15), "building": (17,), "wall": (6,), "fence": (3,), "pole": (45, 47),
    "traffic light": (48,), "traffic sign": (50,), "vegetation": (30,), "terrain": (29,), "sky": (27,),
    "person": (19,), "rider": (20, 21, 22), "car": (55,), "truck": (61,), "bus": (54,), "train": (58,),
    "motorcycle": (57,), "bicycle": (52,),
}  # fmt: skip
# Vistas 2.0: the classes into which those of 1.2 were divided
MAPILLARY_2_0: Table = {
    "road": (21, *range(35, 45), *range(46, 56), 57, 58, 74), "sidewalk": (4, 24), "building": (27,), "wall": (12,),
    "fence": (5,), "pole": (85, 88), "traffic light": tuple(range(90, 96)), "traffic sign": (99, 100, 101, 103),
    "vegetation": (64,), "terrain": (63,), "sky": (61,), "person": (30,), "rider": (32, 33, 34), "car": (108,),
    "truck": (114,), "bus": (107,), "train": (111,), "motorcycle": (110,), "bicycle": (105,),
}  # fmt: skip
IDD: Table = {
    "road": (0,), "sidewalk": (3,), "building": (29,), "wall": (20,), "fence": (21,), "pole": (26,),
    "traffic light": (25,), "traffic sign": (24,), "vegetation": (32,), "terrain": (5,), "sky": (33,), "person": (6,),
    "rider": (8,), "car": (12,), "truck": (13,), "bus": (14,), "train": (17,), "motorcycle": (9,), "bicycle": (10,),
}  # fmt: skip
# Into which some of the 40 are joined: what lies off the road (3) has rail tracks, persons (4) have animals, poles (20)
# have groups of poles, the sky (25) has the background; trains are among other vehicles (12)
IDD_LEVEL3: Table = {
    "road": (0,), "sidewalk": (2,), "building": (22,), "wall": (14,), "fence": (15,), "pole": (20,),
    "traffic light": (19,), "traffic sign": (18,), "vegetation": (24,), "terrain": (3,), "sky": (25,), "person": (4,),
    "rider": (5,), "car": (9,), "truck": (10,), "bus": (11,), "motorcycle": (6,), "bicycle": (7,),
}  # fmt: skip
VIPER: Table = {
    "sky": (2,), "road": (3,), "sidewalk": (4,), "terrain": (6,), "vegetation": (7, 8), "building": (9,),
    "fence": (11,), "traffic light": (13,), "traffic sign": (14,), "person": (20,), "bicycle": (22,),
    "motorcycle": (23,), "car": (24, 25), "bus": (26,), "truck": (27,), "train": (29,),
}  # fmt: skip
VIRTUAL_KITTI_2: Table = {
    "terrain": ((210, 0, 200),), "sky": ((90, 200, 255),), "vegetation": ((0, 199, 0), (90, 240, 0)),
    "building": ((140, 140, 140),), "road": ((100, 60, 100),), "traffic sign": ((255, 255, 0),),
    "traffic light": ((200, 200, 0),), "pole": ((255, 130, 0),), "truck": ((160, 60, 60),),
    "car": ((255, 127, 80), (0, 139, 139)),
}  # fmt: skip
# CARLA's tags: up to 0.9.5, from 0.9.6 to 0.9.13, and since 0.9.14 Cityscapes' train ids, counted from 1
CARLA_0_9_5: Table = {
    "building": (1,), "fence": (2,), "person": (4,), "pole": (5,), "road": (6, 7), "sidewalk": (8,),
    "vegetation": (9,), "car": (10,), "wall": (11,), "traffic sign": (12,),
}  # fmt: skip
CARLA_0_9_6: Table = CARLA_0_9_5 | {"sky": (13,), "traffic light": (18,), "terrain": (22,)}
LOVEDA: Table = {
    "background": (1,), "building": (2,), "road": (3,), "water": (4,), "barren": (5,), "forest": (6,),
    "agriculture": (7,),
}  # fmt: skip

# {data set: (table, values without a class on purpose)}
TABLES: dict[str, tuple[Table, tuple]] = {
    "mapillary_1_2": (MAPILLARY_1_2, tuple(range(66))),
    "mapillary_2_0": (MAPILLARY_2_0, tuple(range(124))),
    "idd": (IDD, (*range(40), 255)),
    "idd_level3": (IDD_LEVEL3, (*range(26), 255)),
    "viper": (VIPER, tuple(range(32))),
    "virtual_kitti_2": (VIRTUAL_KITTI_2, ((250, 100, 255), (80, 80, 80))),  # guard rails, and 'Misc'
    "carla_0_9_5": (CARLA_0_9_5, (0, 3)),
    "carla_0_9_6": (CARLA_0_9_6, (0, 3, 14, 15, 16, 17, 19, 20, 21)),
}
TRAIN_IDS = (  # with 255, which is ignored
    "acdc", "dark_zurich", "nighttime_driving", "bdd100k", "idd_cs_train_ids", "muses",
)  # fmt: skip
LABEL_IDS = ("foggy_cityscapes", "synscapes")  # Cityscapes' own
