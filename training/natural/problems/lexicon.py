"""People, things and places that fill the situations of word problems."""

import random
from collections.abc import Mapping

_SHE = (
    "Olivia,Ava,Sophia,Grace,Chloe,Priya,Yuki,Fatima,Elena,Ingrid,Zoe,Ruth,Nora,Hannah,Clara,Lena,Maria,Emma,Lucy,"
    "Amina,Sara,Julia,Rosa,Alice,Tina,Megan,Leah,Naomi,Carla,Kim"
)
_HE = (
    "Alex,Noah,Liam,Ethan,Daniel,Omar,Wei,Carlos,Ivan,Hassan,Mateo,Oscar,Felix,Dylan,Amir,Hugo,Tom,Peter,David,Marcus,"
    "Raj,Kevin,Paul,Jorge,Samuel,Leo,Victor,Henry,Ali,Ben"
)
_LISTS: Mapping[str, str] = {
    "things": "stamps,shells,stickers,pencils,balloons,coins,books,toys,buttons,beads,crayons,tickets,postcards,seeds,"
    "photos,comics,badges,erasers,bottles,candles,plates,bricks,notebooks,puzzles,marbles,cards,ribbons,stones,"
    "magnets,pens,keychains,posters,feathers,leaflets",
    "foods": "oranges,cookies,candies,peaches,plums,lemons,carrots,bananas,apples,muffins,cupcakes,eggs,pears,"
    "sandwiches,potatoes,tomatoes,doughnuts,chocolates,nuts,cherries,grapes,biscuits,rolls,onions,pancakes,dumplings",
    "animals": "sheep,goats,cows,chickens,ducks,rabbits,horses,geese,pigs,turkeys",
    "plants": "roses,tulips,trees,bushes,sunflowers,daisies,seedlings,lilies,shrubs,vines",
    "boxes": "boxes,bags,baskets,packets,jars,trays,crates,cartons,bins,packs,cases",
    "kin": "sister,brother,friend,cousin,teacher,aunt,grandfather,classmate,neighbor,uncle,mother,father,roommate",
    "color": "red,blue,green,yellow,white,black,purple,orange",
    "color2": "gray,pink,brown,silver,golden,striped",
    "goods": "shirts,hats,mugs,lamps,scarves,belts,pillows,towels,chairs,plants,toys,bowls,umbrellas,backpacks,caps",
    "dish": "pizza,cake,pie,loaf of bread,lasagna,watermelon,tray of brownies",
    "place": "museum,zoo,library,pool,park,theater,gym,aquarium,garden,fair",
    "town": "Springfield,Riverton,Oakdale,Lakeside,Hillview,Greenville,Brookfield,Ashford",
    "day": "Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday",
    "sport": "basketball,soccer,hockey,volleyball,handball,rugby",
    "drink": "lemonade,juice,milk,tea,soup,water,cocoa",
    "job": "baker,farmer,carpenter,tailor,gardener,potter,painter,florist,mechanic,printer",
    "group": "students,children,visitors,guests,players,workers,campers,scouts,tourists,dancers",
    "vehicle": "car,truck,bus,van,train,taxi",
}
_SINGULARS = {"thing": "things", "food": "foods", "box": "boxes", "plant": "plants", "good": "goods"}
_NEXT_DAY = dict(zip(_LISTS["day"].split(","), _LISTS["day"].split(",")[1:] + ["Monday"], strict=True))


def draw_words(rng: random.Random) -> dict[str, str]:
    """A word for every slot: people with their pronouns, and a noun of each list.

    Slots ending in 2 are another draw of the same list; ``thing``, ``food``, ``box`` and so on are the singular.
    """
    slots: dict[str, str] = {}
    she, he_too = [(name, ("she", "her", "her")) for name in _SHE.split(",")], _HE.split(",")
    people = rng.sample(she + [(name, ("he", "his", "him")) for name in he_too], 3)
    for number, (name, (he, his, him)) in zip(("", "2", "3"), people, strict=True):
        slots |= {f"N{number}": name, f"he{number}": he, f"his{number}": his, f"him{number}": him}
        slots |= {f"He{number}": he.capitalize(), f"His{number}": his.capitalize()}
    for slot, words in _LISTS.items():
        first, *others = rng.sample(words.split(","), 2)
        slots[slot] = first
        slots.setdefault(f"{slot}2", others[0])
    for one, plural in _SINGULARS.items():
        for number in ("", "2"):
            slots[f"{one}{number}"] = singular(slots[f"{plural}{number}"])
    slots["nextday"] = _NEXT_DAY[slots["day"]]
    return slots


def singular(noun: str) -> str:
    """One of a plural noun of the lists above."""
    if noun.endswith("ies") and noun != "cookies":
        return noun.removesuffix("ies") + "y"
    if noun.endswith("oes"):
        return noun.removesuffix("es")
    if noun in ("boxes", "bushes", "radishes", "sandwiches", "peaches", "benches"):
        return noun.removesuffix("es")
    return {"shelves": "shelf", "leaves": "leaf", "scarves": "scarf"}.get(noun, noun.removesuffix("s"))
