// Examples: a value that a schema allows, and the lines for the shell that make a call.

import { resolved } from "./schemas.js";

const JSON_TYPE = "application/json";
const FORM_TYPE = "multipart/form-data";
const BARE_TYPE = "image/*";
const PICTURE = "<base64>"; // stands for a picture's file in examples
const FILE = "picture.png";

/** What the schema itself has as an example, or else every field with a value that it allows. */
export function sample(document, schema) {
  const found = resolved(document, schema);
  if (found.examples?.length) return found.examples[0];
  if ("const" in found) return found.const;
  if (found.default !== undefined) return found.default;
  if (found.enum) return found.enum[0];
  const choices = found.anyOf ?? found.oneOf ?? found.allOf;
  if (choices && !found.properties) return sample(document, choices[0]);
  const type = Array.isArray(found.type) ? found.type[0] : found.type;
  if (type === "object" || found.properties) return sampleObject(document, found);
  if (type === "array") return sampleList(document, found);
  if (type === "integer" || type === "number") return found.minimum ?? 0;
  if (type === "boolean") return false;
  return type === "string" ? "text" : null;
}

function sampleObject(document, { properties = {} }) {
  return Object.fromEntries(Object.entries(properties).map(([name, value]) => [name, sample(document, value)]));
}

function sampleList(document, { items, minItems = 1 }) {
  return Array.from({ length: Math.max(1, minItems) }, () => sample(document, items));
}

/** Lines that work as they stand, where there is a picture of that name: one, or one for each form of the body. */
export function commands(document, { method, path, operation }, base) {
  const filled = path.replace(/\{(\w+)\}/g, (_, name) => inPath(document, operation, name));
  const url = new URL(filled.slice(1), base).href;
  const content = operation.requestBody?.required ? operation.requestBody.content : {};
  if (!(JSON_TYPE in content)) return [`curl${method === "GET" ? "" : ` -X ${method}`} ${quoted(url)}`];
  const body = sample(document, content[JSON_TYPE].schema);
  const lines = [];
  if (BARE_TYPE in content) lines.push(bare(url, body));
  if (FORM_TYPE in content) lines.push(form(url, body));
  return [...lines, json(url, body)];
}

function inPath(document, operation, name) {
  const parameters = operation.parameters.map((one) => resolved(document, one));
  return sample(document, parameters.find((one) => one.in === "path" && one.name === name).schema);
}

function bare(url, body) {
  const fields = Object.entries(body).filter(([, value]) => value !== PICTURE);
  return `curl --data-binary @${FILE} ${quoted(`${url}?${new URLSearchParams(fields)}`)}`;
}

function form(url, body) {
  const fields = Object.entries(body).map(([name, value]) => quoted(`${name}=${value === PICTURE ? `@${FILE}` : value}`));
  return `curl ${fields.map((field) => `-F ${field}`).join(" ")} ${quoted(url)}`;
}

function json(url, body) {
  const text = JSON.stringify(body);
  const asked = `curl -H ${quoted(`Content-Type: ${JSON_TYPE}`)}`;
  if (!text.includes(PICTURE)) return `${asked} -d ${quoted(text)} ${quoted(url)}`;
  const format = text.replaceAll("\\", "\\\\").replaceAll("%", "%%").replaceAll(PICTURE, "%s");
  return `printf ${quoted(format)} "$(base64 < ${FILE} | tr -d '\\n')" | ${asked} -d @- ${quoted(url)}`;
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
