"""Ordinary words by kind, for rules that need the meaning of a word: occupations, relations, conditions, ways and places.

In: nothing; tables.
Out: alternatives of expressions.
Refuses: nothing.
Not here: names. No list of names is used anywhere.
"""

from typing import Final

_OCCUPATIONS: Final = """
accountant, actor, actress, advocate, architect, artist, assistant professor, author, baker, barber, bricklayer, bus driver,
butcher, cabinet maker, captain, caretaker, carpenter, chauffeur, chemist, civil servant, cleaner, conscript, dancer, dentist,
docker, dressmaker, economist, editor-in-chief, editor, electrician, farmer, firefighter, fireman, fisherman, gardener,
geologist, gynaecologist, hairdresser, housewife, janitor, jeweller, journalist, labourer, lecturer, librarian, locksmith,
driver, mathematician, mechanic, medical practitioner, midwife, miner, musician, non-commissioned officer, police officer,
army officer, nurse, optician, pastor, pharmacist, photographer, physician, physicist, physiotherapist, pianist, plumber,
poet, politician, priest, primary school teacher, professor, psychiatrist, psychologist, publisher, radiologist,
research assistant, researcher, sailor, salesman, sculptor, seamstress, security guard, shepherd, shoemaker, shopkeeper,
singer, soldier, stockbroker, student, surgeon, tailor, teacher, technician, veterinarian, waiter, waitress, watchman,
welder, writer
"""
_JOB_ENDINGS: Final = """
manager, director, officer, engineer, developer, designer, technician, technologist, scientist, operator, administrator,
assistant, coordinator, representative, clerk, cashier, lineman, installer, repairer, tender, drafter, surgeon, consultant,
analyst, specialist, advisor, adviser, supervisor, secretary, accountant, teacher, nurse, president, executive, partner,
counsel, attorney, associate, editor, therapist, planner, inspector, worker
"""
_RELATIONS: Final = """
mother, father, brother, sister, wife, husband, son, daughter, uncle, aunt, cousin, niece, nephew, grandmother, grandfather,
spouse, parents, children
"""
_CONDITIONS: Final = """
paranoid schizophrenia, schizophrenia, bipolar disorder, depression, psychosis, epilepsy, diabetes, asthma, cancer, leukaemia,
leukemia, tuberculosis, hepatitis, HIV, AIDS, dementia, autism, anorexia, alcoholism, sclerosis, arthritis, arthrosis,
neuralgia, sciatica, psychotic illness, mental illness, psychiatric illness, mental disorder, psychiatric disorder,
mentally ill, total disability
"""
_COUNTED: Final = """
persons, person, people, children, brothers, sisters, siblings, sons, daughters, accused, defendants, suspects, applicants,
claimants, witnesses, officers, policemen, soldiers, prisoners, detainees, inmates, shareholders, landowners, owners, heirs,
residents, inhabitants, villagers, students, pupils, patients, colleagues, occasions, hearings, decisions, instances,
plots of land, flats, houses, apartments, envelopes, letters
"""
_STREET_ENDINGS: Final = """
straße, strasse, str., weg, gasse, allee, platz, ring, damm, ufer, steig, chaussee, promenade, straat, laan, plein, kade, singel,
dijk, steeg, gracht, dreef, steenweg, gade, gata, gatan, gate, vej, vejen, veg, vegen, vei, veien, väg, vägen, stien, stigen,
plads, plass, torg, torget, bakken, backen, tie, katu, kuja, polku, vegur, braut, holt, stígur, utca, körút
"""
_STREET_STARTS: Final = """
rua, via, viale, vicolo, corso, piazza, largo, calle, avenida, avda., av., paseo, plaza, camino, carrer, rue, avenue, boulevard,
chemin, impasse, allée, quai, place, route, travessa, praça, estrada, strada, ul., ulica, al., aleja, os., plac, ulice, náměstí,
třída, utca, calea, rruga
"""
_STREET_WORDS: Final = """
street, st, avenue, ave, road, rd, boulevard, blvd, lane, ln, drive, dr, court, ct, square, sq, terrace, close, crescent, cres,
highway, hwy, parkway, pkwy, way, place, pl, row, mews, gardens, grove, circle, cir, trail, alley, plaza, quay, wharf, walk
"""


def _alternatives(words: str) -> str:
    """Return the words as an expression, longer ones first so that they win over their own beginnings."""
    return "|".join(
        sorted((" ".join(word.split()) for word in words.replace(".", r"\.").split(",")), key=lambda word: (-len(word), word))
    )


OCCUPATIONS: Final = _alternatives(_OCCUPATIONS)
JOB_ENDINGS: Final = _alternatives(_JOB_ENDINGS)
RELATIONS: Final = _alternatives(_RELATIONS)
CONDITIONS: Final = _alternatives(_CONDITIONS)
COUNTED: Final = _alternatives(_COUNTED)
STREET_ENDINGS: Final = _alternatives(_STREET_ENDINGS)
STREET_STARTS: Final = _alternatives(_STREET_STARTS)
STREET_WORDS: Final = _alternatives(_STREET_WORDS)
