export function slug(title, separator) {
  return title.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean).join(separator);
}
