/** The words of the demo's invented valley. An ailment is a manner and a kind in one word: `tincough`. */

export const manners = [
  'marsh', 'tin', 'lantern', 'winter', 'ember', 'chalk', 'harbour', 'mill', 'orchard', 'salt', 'ferry', 'barley',
  'candle', 'kiln', 'ladder', 'pepper', 'river', 'slate', 'thistle', 'wagon', 'cinder', 'feather', 'hollow', 'meadow'
] as const

export const kinds = ['fever', 'cough', 'itch', 'ache', 'rash', 'chill', 'cramp'] as const

export const remedies = [
  'bitterleaf', 'silverroot', 'goosewort', 'lowmint', 'redbark', 'fennelbell', 'moonsage', 'hareclover', 'ashberry', 'kingsmoss',
  'bluebrier', 'milkvetch', 'ironweed', 'sunbalm', 'crowthyme', 'pinegum', 'larkspice', 'dewgrass', 'honeyfern', 'starlichen',
  'coppernettle', 'whitecress', 'foxlily', 'oatflower', 'blackheather', 'ringmallow', 'sorrelvine', 'tallowseed', 'wrenpetal', 'duskpoppy',
  'glassreed', 'hornplum', 'ivorybean', 'jackpear', 'knotrose', 'linderbud', 'mirthdock', 'newtroot', 'owlgrape', 'quillmint'
] as const

export const names = [
  'Ada', 'Bram', 'Cleo', 'Doran', 'Edda', 'Finn', 'Greta', 'Hugo', 'Ines', 'Jory', 'Kaya', 'Lev', 'Mira', 'Nils', 'Oona', 'Piet'
] as const

export const trades = [
  'weaver',
  'baker',
  'ferryman',
  'miller',
  'potter',
  'cooper',
  'shepherd',
  'teacher',
  'mason',
  'fisher',
  'gardener',
  'smith'
] as const

export const places = ['Oldbridge', 'Stillwater', 'Farhill', 'Reedham', 'Castleton', 'Westwood', 'Longmere', 'Easthaven'] as const

export const days = ['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'] as const

export const goods = ['bread', 'wool', 'rope', 'honey', 'apples', 'cheese', 'timber', 'clay', 'grain', 'cloth'] as const

export const weathers = ['rain', 'fog', 'frost', 'sunshine', 'wind', 'snow', 'drizzle', 'thunder'] as const
