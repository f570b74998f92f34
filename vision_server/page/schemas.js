// JSON Schemas in words: what kind of value, and which fields an object has.

const DEEPEST = 4; // fields within fields that are shown

/** The schema, or parameter, that a reference stands for. */
export function resolved(document, schema) {
  let found = schema ?? {};
  while (found.$ref) found = found.$ref.slice(2).split("/").reduce((at, step) => at[step], document);
  return found;
}

export function kindOf(document, schema) {
  const found = resolved(document, schema);
  const choices = found.anyOf ?? found.oneOf;
  if (choices) return [...new Set(choices.map((one) => kindOf(document, one)))].join(" or ");
  if (found.allOf) return kindOf(document, found.allOf[0]);
  if ("const" in found) return JSON.stringify(found.const);
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(", ");
  if (Array.isArray(found.type)) return found.type.join(" or ");
  if (found.type === "array") return `list of ${found.prefixItems ? "" : kindOf(document, found.items)}`.trim();
  if (found.contentMediaType && !found.type) return "bytes";
  return `${found.type ?? "any"}${bounds(found)}`;
}

function bounds({ minimum, maximum, maxLength }) {
  if (minimum !== undefined && maximum !== undefined) return ` from ${minimum} to ${maximum}`;
  if (minimum !== undefined) return ` from ${minimum}`;
  if (maximum !== undefined) return ` up to ${maximum}`;
  return maxLength === undefined ? "" : `, ${maxLength} characters at most`;
}

/** [{name, kind, required, meaning}], those within others behind their name: a.b, a[].b */
export function fieldsOf(document, schema, before = "", depth = 0) {
  const found = resolved(document, schema);
  const fields = [];
  for (const [name, value] of Object.entries(found.properties ?? {})) {
    const field = resolved(document, value);
    fields.push({
      name: before + name,
      kind: kindOf(document, value),
      required: (found.required ?? []).includes(name),
      meaning: meaningOf(field),
    });
    if (depth < DEEPEST) fields.push(...within(document, field, before + name, depth + 1));
  }
  return fields;
}

function within(document, field, name, depth) {
  const found = resolved(document, field);
  const shapes = [found, ...(found.anyOf ?? found.oneOf ?? []).map((one) => resolved(document, one))];
  const fields = shapes.flatMap((shape) => {
    if (shape.type === "array" && shape.items) {
      const items = resolved(document, shape.items);
      const own = items.properties ? fieldsOf(document, items, `${name}[].`, depth) : [];
      return own.length ? own : within(document, { anyOf: items.anyOf ?? items.oneOf ?? [] }, `${name}[]`, depth);
    }
    return fieldsOf(document, shape, `${name}.`, depth);
  });
  return joined(fields);
}

/** One field for each name, which may be of the kinds and have the meanings of all that have it. */
function joined(fields) {
  const byName = new Map();
  for (const field of fields) byName.set(field.name, [...(byName.get(field.name) ?? []), field]);
  return [...byName.values()].map((same) => ({
    ...same[0],
    kind: [...new Set(same.map((one) => one.kind))].join(" or "),
    required: same.every((one) => one.required),
    meaning: [...new Set(same.map((one) => one.meaning))].join(" "),
  }));
}

function meaningOf(field) {
  const usual = [field, ...(field.anyOf ?? [])].find((one) => one.default !== undefined)?.default;
  const known = usual === undefined ? "" : ` Unless it is said: ${JSON.stringify(usual)}.`;
  return `${field.description ?? ""}${known}`.trim();
}
